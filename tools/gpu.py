#!/usr/bin/env python3
"""A quarter of an hour on a machine with a GPU, without a network, to which few megabytes go and from which few files come.

    python tools/gpu.py pack --train cifar10.npz --other svhn.npz     makes pack/: packages, images, what came back before, and run.sh
    bash pack/run.sh OUT                                              there, in the root of this repository: works through tools/gpu.yaml
    python tools/gpu.py collect OUT                                   takes what OUT holds into runs/gpu, and the results into nbs/results/gpu

`pack` takes as many training images as fit, and later as many as at the first time, so that all trainings have the same. `collect` leaves in runs/gpu all that the next `pack` takes along, so that jobs go on there; what was
run with `--extra`, a rehearsal, stays out of both. cifar10.npz holds x_train and x_test, bytes (n,s,s,3), with y_train and y_test; svhn.npz holds x.

There: Linux on x86-64, Python 3.12 as python3 (or PYTHON=…) with PyTorch, torchvision, accelerate, torchmetrics, torchdiffeq, scikit-learn, safetensors,
filelock, pandas, PyYAML and Pillow, and this repository as it is here. OUT is relative to where run.sh is called."""
import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
import numpy as np
from PIL import Image
from fastcore.script import Param, bool_arg, call_parse
from jobs import Outbox, is_done, read_queue, record, unpack

root = Path(__file__).resolve().parent.parent
# what fastai needs where PyTorch, torchvision, accelerate, torchmetrics, scikit-learn and Pillow are there
wheels = ['fastai==2.8.7','fastcore==1.14.5','fastdownload==0.0.8','fastprogress==1.0.5','fasttransform==0.0.2','plum-dispatch==2.9.0','beartype==0.23.1','zuko==1.6.0']

run_sh = '''#!/usr/bin/env bash
# bash pack/run.sh OUT [SECONDS] [more arguments of tools/jobs.py]: the queue, in the root of the repository
set -u
[[ ${1:--} != -* && ${2:-1} =~ ^[0-9]+$ ]] || { echo 'usage: bash pack/run.sh OUT [SECONDS [arguments of tools/jobs.py]]'; exit 2; }
out=$(realpath -m "$1") seconds=${2:-570} python=${PYTHON:-python3}; shift; shift 2>/dev/null
cd "$(dirname "$0")/.." || exit 1
if [ ! -d pack/site ]; then
  rm -rf pack/site.part
  "$python" -m pip install -q --no-index --no-deps --no-compile --target pack/site.part pack/wheels/*.whl && mv pack/site.part pack/site || exit
fi
[ -d ncml.egg-info ] || "$python" setup.py -q egg_info 2>/dev/null || exit
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
    Image.fromarray(a.reshape(k, k, h, w, 3).swapaxes(1, 2).reshape(k*h, k*w, 3)).save(b, 'WEBP', lossless=True, quality=100, method=6)
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

def read_images(file, *names):
    "Square images (n,s,s,3) of bytes and labels in an .npz file; raises where they are something else"
    with np.load(file) as f:
        if lost := [o for o in names if o not in f]: raise SystemExit(f"{file}: need arrays {', '.join(names)}, got {', '.join(f)}, without {', '.join(lost)}")
        arrays = [f[o] for o in names]
    for o,x in zip(names, arrays, strict=True):
        square = x.ndim==4 and x.shape[3]==3 and x.shape[1]==x.shape[2] and x.shape[1]%4==0
        if o[0]=='x' and not (x.dtype==np.uint8 and square and len(x)): raise SystemExit(f"{file}: need bytes (n,s,s,3) in {o}, s a multiple of 4, got {x.dtype} {x.shape}")
    return arrays

def fetch_wheels(folder):
    words = [sys.executable,'-m','pip','download','-q','--no-deps','--only-binary=:all:','--python-version','3.12','--implementation','cp']
    words += [o for k in ('manylinux_2_28','manylinux_2_17','manylinux2014') for o in ('--platform', f'{k}_x86_64')]
    done = subprocess.run([*words, '-d', str(folder), *wheels], capture_output=True, text=True)
    if done.returncode: raise SystemExit(f"packages: need a network for pip, got {done.stderr.strip().splitlines()[-1]}")

def take_in(out, work, results, queue):
    "What came back into `work`, and the records and tables of all jobs into `results`"
    if not (out/'small.zip').exists(): raise SystemExit(f"out: need a folder that run.sh wrote, got {out}, without small.zip")
    whole = unpack(out, work)
    for o in read_queue(queue):
        if not (r := record(work/o['name'])): continue
        own = {p.stem:json.loads(p.read_text()) for p in sorted((work/o['name']).glob('*.json')) if p.stem!='record'}
        rehearsal = bool(r['job'][1])
        if not rehearsal:
            results.mkdir(parents=True, exist_ok=True)
            (results/f"{o['name']}.json").write_text(json.dumps(dict(job=r) | own, indent=1)+'\n')
        print(f"{o['name']:16}{r['status']:10}{', '.join(own)}{', weights' if o['name'] in whole else ''}{' (a rehearsal: no results)' if rehearsal else ''}")

def make_pack(pack, train, other, room, limit, work, queue, packages):
    (pack/'wheels').mkdir(parents=True)
    (pack/'data').mkdir()
    x,y,x_test,y_test = read_images(train, 'x_train', 'y_train', 'x_test', 'y_test')
    same = work/'images.json'
    if same.exists(): limit = json.loads(same.read_text())
    data = dict(test=write_sheets(pack/'data', 'test', x_test[:1000], np.inf, 1000))
    if other: data['other'] = write_sheets(pack/'data', 'other', read_images(other, 'x')[0][:1000], np.inf, 1000)
    if len({o['size'] for o in data.values()} | {x.shape[1]})>1: raise SystemExit("train, other: need images of one size")
    np.savez_compressed(pack/'data'/'labels.npz', y_train=y[:limit], y_test=y_test[:1000])
    if packages: fetch_wheels(pack/'wheels')
    names = [o['name'] for o in read_queue(queue) if record(work/o['name']).get('job')==[o['run'],'']]
    if names:
        box = Outbox(work, pack/'back', names)
        box.sent = {k:box.stamp(work/k) for k in names}
        box.renew()
    (pack/'run.sh').write_text(run_sh)
    data['train'] = write_sheets(pack/'data', 'train', x[:limit], room-.5-tree_megabytes()-megabytes(pack), 1000)
    (pack/'data'/'data.json').write_text(json.dumps(data)+'\n')
    n = sum(data['train']['sheets'])
    undone = [o for o in read_queue(queue) if not is_done(work/o['name'], o)]
    for k in dict.fromkeys(k for o in undone for k in (o['name'], *o.get('after', [])) if k in names): # their large files, if there is room
        box.sent[k] = []
        box.large(work/k)
        if tree_megabytes()+megabytes(pack)<=room: continue
        for p in (pack/'back').glob(f'{k}.tar.*'): p.unlink()
        print(f"{k}: no room for its large files, which stay here")
    need = tree_megabytes()+megabytes(pack)
    if not n or same.exists() and n!=limit: raise SystemExit(f"room: need more than {need:.0f} MiB, for {limit or 'some'} images beside the rest, got {room:g}")
    work.mkdir(parents=True, exist_ok=True)
    same.write_text(f'{n}\n')
    return n,len(x),names

@call_parse
def main(
    what:str, # 'pack' or 'collect'
    out:Param('of `collect`: the folder that came back', str, nargs='?', opt=False)='out',
    train:str='cifar10.npz', other:str=None, # of `pack`: images to learn, and of another kind
    room:float=64, # MiB of the repository and the pack together
    limit:int=None, # most training images (default: as many as fit)
    packages:bool_arg=True, # of `pack`: fetch the packages?
    work:str='runs/gpu', # the jobs' folders
    pack:Path=root/'pack', # folder to make
    results:str='nbs/results/gpu', # of `collect`
    queue:Path=root/'tools'/'gpu.yaml', # of jobs
):
    "Make the pack, or take in what came back"
    if what=='collect': return take_in(Path(out), Path(work), Path(results), queue)
    if what!='pack': raise SystemExit(f"what: need pack or collect, got {what}")
    with tempfile.TemporaryDirectory(dir=pack.parent, prefix='.pack-') as tmp: # an older pack stays until this one is whole
        n,of,names = make_pack(new := Path(tmp)/'pack', train, other, room, limit, Path(work), queue, packages)
        shutil.rmtree(pack, ignore_errors=True)
        new.rename(pack)
    sizes = {p.name:round(megabytes(p) if p.is_dir() else p.stat().st_size/2**20, 1) for p in sorted(pack.iterdir())}
    print(f"repository {tree_megabytes():.1f} MiB, pack {megabytes(pack):.1f} of at most {room:g} together: {sizes}")
    print(f"goes on from: {', '.join(names) or 'nothing'}")
    print(f"{n} of {of} training images. There: bash pack/run.sh OUT")
