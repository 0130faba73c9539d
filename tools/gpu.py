#!/usr/bin/env python3
"""A quarter of an hour on a machine with a GPU, without a network, to which few megabytes go and from which few files come.

    python tools/gpu.py pack --train cifar10.npz --other svhn.npz     makes pack/: packages, images, what came back before, and run.sh
    bash pack/run.sh OUT                                              there, in the root of this repository: works through tools/gpu.yaml
    python tools/gpu.py collect OUT                                   takes what OUT holds into runs/gpu, and the results into nbs/results/gpu

`pack` takes as many training images as fit, at the next time as many as before, so that all trainings have the same. `collect` leaves in runs/gpu all that the next `pack` takes along, so that jobs go on there.
cifar10.npz holds x_train, y_train, x_test, y_test; svhn.npz holds x."""
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
import numpy as np
from PIL import Image
from fastcore.script import Param, bool_arg, call_parse
from jobs import Outbox, read_queue, record, unpack

root = Path(__file__).resolve().parent.parent
# what fastai needs where PyTorch, torchvision, accelerate, torchmetrics, scikit-learn and Pillow are there
wheels = ['fastai==2.8.7','fastcore==1.14.5','fastdownload==0.0.8','fastprogress==1.0.5','fasttransform==0.0.2','plum-dispatch==2.9.0','beartype==0.23.1','zuko==1.6.0']

run_sh = '''#!/usr/bin/env bash
# bash pack/run.sh OUT [SECONDS] [more arguments of tools/jobs.py]: the queue, in the root of the repository
set -u
cd "$(dirname "$0")/.." || exit 1
out=$1 seconds=${2:-570} python=${PYTHON:-python3}; shift; shift 2>/dev/null
[ -d pack/site ] || "$python" -m pip install -q --no-index --no-deps --no-compile --target pack/site pack/wheels/*.whl || exit
[ -d ncml.egg-info ] || "$python" setup.py -q egg_info || exit
export PYTHONPATH=$PWD:$PWD/pack/site PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore MPLBACKEND=agg
exec "$python" tools/jobs.py tools/gpu.yaml runs/gpu --data pack/data --out "$out" --back pack/back --seconds "$seconds" "$@"
'''

def megabytes(folder): return sum(p.stat().st_size for p in Path(folder).rglob('*') if p.is_file())/2**20

def tree_megabytes():
    "The files of the repository that are in git or could be"
    names = subprocess.run(['git','ls-files','-co','--exclude-standard','-z'], cwd=root, capture_output=True, text=True, check=True).stdout
    return sum((root/o).stat().st_size for o in names.split('\0') if o and (root/o).is_file())/2**20

def sheet(x): # (n,h,w,3) uint8 -> bytes
    "A lossless WebP of the images below each other in columns"
    n,h,w,_ = x.shape
    k = int(np.ceil(np.sqrt(n)))
    a = np.zeros((k*k, h, w, 3), np.uint8)
    a[:n] = x
    b = io.BytesIO()
    Image.fromarray(a.reshape(k, k, h, w, 3).swapaxes(1, 2).reshape(k*h, k*w, 3)).save(b, 'WEBP', lossless=True, quality=100, method=4)
    return b.getvalue()

def read_sheets(folder, name): # (n,size,size,3) uint8
    "The images of all sheets NAME-0.webp, NAME-1.webp, …"
    info,parts = json.loads((folder/'data.json').read_text())[name],[]
    for i,n in enumerate(info['sheets']):
        with Image.open(folder/f'{name}-{i}.webp') as f: a = np.asarray(f.convert('RGB'))
        s,k = info['size'],len(a)//info['size']
        parts.append(a.reshape(k, s, k, s, 3).swapaxes(1, 2).reshape(-1, s, s, 3)[:n])
    return np.concatenate(parts)

def write_sheets(folder, name, x, room, most):
    "Sheets of `most` images each, as long as they fit into `room` MiB; how many images each has"
    sizes = []
    for i in range(0, len(x), most):
        b = sheet(x[i:i+most])
        if len(b)/2**20>room: break
        room -= len(b)/2**20
        (folder/f'{name}-{len(sizes)}.webp').write_bytes(b)
        sizes.append(len(x[i:i+most]))
    return dict(sheets=sizes, size=x.shape[1])

@call_parse
def main(
    what:str, # 'pack' or 'collect'
    out:Param('of `collect`: the folder that came back', str, nargs='?', opt=False)='out',
    train:str='cifar10.npz', other:str=None, # of `pack`: images to learn, and of another kind
    room:float=64, # MiB of the repository and the pack together
    limit:int=None, # most training images (default: as many as fit)
    packages:bool_arg=True, # of `pack`: fetch the packages?
    work:str='runs/gpu', # the jobs' folders
    pack:str='pack', # folder to make
    results:str='nbs/results/gpu', # of `collect`
    queue:Path=root/'tools'/'gpu.yaml', # file of jobs
):
    "Make the pack, or take in what came back"
    work,results,pack = Path(work),Path(results),Path(pack)
    if what=='collect':
        whole = unpack(Path(out), work)
        results.mkdir(parents=True, exist_ok=True)
        for o in read_queue(queue):
            r = record(work/o['name'])
            if not r: continue
            own = {p.stem:json.loads(p.read_text()) for p in sorted((work/o['name']).glob('*.json')) if p.stem!='record'}
            (results/f"{o['name']}.json").write_text(json.dumps(dict(job=r) | own, indent=1)+'\n')
            print(f"{o['name']:16}{r['status']:10}{', '.join(own)}{', weights' if o['name'] in whole else ''}")
        return
    shutil.rmtree(pack, ignore_errors=True)
    (pack/'wheels').mkdir(parents=True)
    (pack/'data').mkdir()
    words = [sys.executable,'-m','pip','download','-q','--no-deps','--only-binary=:all:','--python-version','3.12','--implementation','cp']
    words += [o for k in ('manylinux_2_28','manylinux_2_17','manylinux2014') for o in ('--platform', f'{k}_x86_64')]
    if packages: subprocess.run([*words, '-d', str(pack/'wheels'), *wheels], check=True)
    if work.exists():
        box,undone = Outbox(work, pack/'back', new=False),[o for o in read_queue(queue) if record(work/o['name']).get('status')!='done']
        needed = {k for o in undone for k in (o['name'], *o.get('after', []))}
        box.sent = {p.name:box.stamp(p) for p in work.iterdir() if p.is_dir() and p.name not in needed and not any(p.glob('*.bin'))} # stay here
        box.renew()
    (pack/'run.sh').write_text(run_sh)
    data,same = {},work/'images.json'
    if same.exists(): limit = json.loads(same.read_text())
    with np.load(train) as f:
        x,y = f['x_train'][:limit],f['y_train'][:limit]
        data['test'] = write_sheets(pack/'data', 'test', f['x_test'][:1000], np.inf, 1000)
        np.savez_compressed(pack/'data'/'labels.npz', y_train=y, y_test=f['y_test'][:1000])
    if other:
        with np.load(other) as f: data['other'] = write_sheets(pack/'data', 'other', f['x'][:1000], np.inf, 1000)
    data['train'] = write_sheets(pack/'data', 'train', x, room-.5-tree_megabytes()-megabytes(pack), 1000)
    (pack/'data'/'data.json').write_text(json.dumps(data)+'\n')
    n = sum(data['train']['sheets'])
    if not n or same.exists() and n!=limit: raise SystemExit(f"pack: need room for {limit or 'some'} training images beside what came back, got {n}")
    work.mkdir(parents=True, exist_ok=True)
    same.write_text(f'{n}\n')
    sizes = {p.name:round(megabytes(p) if p.is_dir() else p.stat().st_size/2**20, 1) for p in sorted(pack.iterdir())}
    print(f"repository {tree_megabytes():.1f} MiB, pack {megabytes(pack):.1f} of at most {room:g} together: {sizes}")
    print(f"{n} training images. There: bash pack/run.sh OUT")
