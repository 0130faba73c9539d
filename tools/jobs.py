#!/usr/bin/env python3
"""A queue of jobs from a file, in order, each with a time limit; what did not finish goes on at the next call.

    python tools/jobs.py tools/experiments.yaml runs/experiments --data .
    python tools/jobs.py tools/gpu.yaml work --data pack/data --seconds 560 --out out --back pack/back

A job is an entry with `name`, `run` (a command, in which {dir} is the folder of the job, {name} its name, {work} that of all jobs, {python} this Python, {tools} the
folder of this script, {data} and {extra} arguments), `resume` (the command that goes on from what {dir} holds), `seconds` (its limit) and `after` (names of jobs that must
be done before). WORK/NAME holds log.txt, record.json and what the command writes. At the limit the job gets SIGTERM, later SIGKILL; the last
30 of `--seconds` are kept for that.

With `--out`, everything below WORK comes out as a few files of at most 16 MiB, renewed while a job runs: small.zip with all small files,
and NAME.tar.DIGEST.N.I, piece I of N, with the newest checkpoint of a job, or its weights, as long as all pieces are at most 48 MiB.
`--back` and `tools/gpu.py` read them."""
import fnmatch
import gzip
import hashlib
import io
import json
import os
import resource
import signal
import shlex
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from contextlib import suppress
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
import numpy as np
import yaml
from fastcore.script import call_parse
from filelock import FileLock, Timeout

small,piece,grace = 2**20,2**24,20. # bytes of a small file, of a file that comes out; seconds from SIGTERM to SIGKILL
room,most = 3*piece,7 # bytes and number of all pieces

def put(path, data):
    "Write whole or not at all"
    part = path.with_name(f'.{path.name}.part')
    part.write_bytes(data)
    part.replace(path)

class Rest(dict):
    def __missing__(self, k): return f'{{{k}}}' # for later

def each(job):
    "The jobs of an entry with `for`"
    keys = {k:v if isinstance(v, dict) else {o:o for o in v} for k,v in job.pop('for', {}).items()}
    for o in product(*keys.values()):
        names = Rest(zip(keys, o, strict=True))
        values = Rest({k:keys[k][v] for k,v in names.items()})
        own = {k:v.format_map(names if k=='name' else values) if isinstance(v, str) else v for k,v in job.items()}
        yield own | ({'after': [a.format_map(names) for a in job['after']]} if 'after' in job else {})

def read_queue(file, names=None):
    "The jobs of a file; raises where an entry is unknown or a name is there twice"
    jobs = [o for job in yaml.safe_load(Path(file).read_text(encoding='utf-8')) for o in each(job)]
    known = {'name','run','resume','seconds','after'}
    for o in jobs:
        if not {'name','run'}<=o.keys()<=known: raise ValueError(f"queue: need name and run, of {sorted(known)}, got {o}")
        if set(o.get('after', []))-{j['name'] for j in jobs}: raise ValueError(f"queue: need known jobs in after, got {o}")
    if len({o['name'] for o in jobs})<len(jobs): raise ValueError("queue: need a name for each job")
    return [o for o in jobs if not names or any(fnmatch.fnmatch(o['name'], n) for n in names.split(','))]

def record(folder):
    try: return json.loads((folder/'record.json').read_text())
    except (OSError, ValueError): return {}

def is_done(folder, job, extra=''): # also: by today's command
    r = record(folder)
    return r.get('status')=='done' and r.get('job')==[job['run'],extra]

def set_aside(folder, job, extra):
    "Rename the folder of a job that had another command"
    r = record(folder)
    if not r or r.get('job')==[job['run'],extra]: return
    new = next(p for i in range(1, 10**6) if not (p := folder.with_name(f'{folder.name}.before-{i}')).exists())
    folder.rename(new)
    print(f"{job['name']}: had another command, `{r['command']}`; that is now in {new}", flush=True)

def packed(b): return gzip.compress(np.frombuffer(b, np.uint8).reshape(-1, 4).T.tobytes(), 1) # bytes of like place in floats together
def unpacked(b): return np.frombuffer(gzip.decompress(b), np.uint8).reshape(4, -1).T.tobytes()

def newest(folder):
    "The newest checkpoint below a job's folder with its run, else its weights, and compiled code: files, relative to the folder"
    saved = sorted(folder.rglob('checkpoints/*.safetensors'), key=lambda p: p.stat().st_mtime)
    weights = [p for p in folder.rglob('weights.safetensors') if saved and p.parent==saved[-1].parent.parent or not saved]
    return [p.relative_to(folder) for p in saved[-1:]+weights+[*folder.glob('*.bin')] if p.stat().st_size>small]

# %% What comes out
class Outbox:
    "Everything below `work` in few files: small ones in one archive, the large ones of a job in pieces"
    def __init__(self, work, out, names=None): # only these jobs, large files too (default: all, but only those large files that are new)
        self.work,self.out,self.lock,self.names = work,out,threading.Lock(),names
        self.sent = {p.name:self.stamp(p) for p in work.iterdir() if p.is_dir() and names is None}
        out.mkdir(parents=True, exist_ok=True)

    def stamp(self, folder): return [(str(p), (folder/p).stat().st_mtime_ns) for p in newest(folder)]

    def small_files(self):
        for p in sorted(self.work.rglob('*')):
            own = self.names is None or p.relative_to(self.work).parts[0] in self.names
            picture = self.names is not None and p.suffix in ('.png','.webp') # which no job needs
            if own and not picture and p.is_file() and p.stat().st_size<=small and not p.name.startswith('.'): yield p

    def renew(self):
        with self.lock:
            b = io.BytesIO()
            with zipfile.ZipFile(b, 'w', zipfile.ZIP_DEFLATED) as z:
                for p in self.small_files(): z.write(p, p.relative_to(self.work))
            if len(b.getvalue())<=piece: put(self.out/'small.zip', b.getvalue())
            else: print(f"small.zip: no room for {len(b.getvalue())/1e6:.0f} MB", flush=True)
            for folder in sorted(p for p in self.work.iterdir() if p.is_dir() and (self.names is None or p.name in self.names)): self.large(folder)

    def large(self, folder):
        "Pieces of the newest large files; older pieces stay until the new ones are whole"
        stamp = self.stamp(folder)
        if self.sent.get(folder.name, [])==stamp: return
        def full(n):
            self.sent[folder.name] = stamp
            print(f"{folder.name}: no room for {n/1e6:.0f} MB; on another machine it begins anew", flush=True)
        b,size = io.BytesIO(),sum((folder/p).stat().st_size for p,_ in stamp)
        if size>3*room: return full(size) # without the seconds to compress it
        with tarfile.open(fileobj=b, mode='w') as t:
            for p,_ in stamp: t.add(folder/p, p)
        b,other = packed(b.getvalue()),[p for p in self.out.glob('*.tar.*') if not p.name.startswith(f'{folder.name}.tar.')]
        n,digest = -(-len(b)//piece),hashlib.sha256(b).hexdigest()[:8]
        if n+len(other)>most or len(b)+sum(p.stat().st_size for p in other)>room: return full(len(b))
        for i in range(n): put(self.out/f'{folder.name}.tar.{digest}.{n}.{i}', b[i*piece:(i+1)*piece])
        for p in self.out.glob(f'{folder.name}.tar.*'):
            if digest not in p.name: p.unlink()
        self.sent[folder.name] = stamp

def unpack(out, work):
    "The inverse of `Outbox`: the names of the jobs whose large files are there whole; what is done in `work` stays as it is"
    kept = {p.parent.name for p in work.glob('*/record.json') if record(p.parent).get('status')=='done'}
    if (out/'small.zip').exists():
        with zipfile.ZipFile(out/'small.zip') as z: z.extractall(work, [o for o in z.namelist() if o.split('/')[0] not in kept])
    whole = []
    for p in sorted(out.glob('*.tar.*.0')):
        name,digest,n = p.name.rsplit('.', 4)[0],*p.name.split('.')[-3:-1]
        parts = [out/f'{name}.tar.{digest}.{n}.{i}' for i in range(int(n))]
        b = b''.join(o.read_bytes() for o in parts if o.exists())
        if name in kept or hashlib.sha256(b).hexdigest()[:8]!=digest: continue # or cut off while it was written
        with tarfile.open(fileobj=io.BytesIO(unpacked(b))) as t: t.extractall(work/name, filter='data')
        whole.append(name)
    return whole

# %% One job
def end(p, seconds):
    "Wait for a process group at most so long; SIGTERM, then SIGKILL: did it end by itself?"
    for s,wait in ((None, seconds), (signal.SIGTERM, grace), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            if s: os.killpg(p.pid, s)
        with suppress(subprocess.TimeoutExpired): return p.wait(wait),s is None

def still_runs(folder):
    "Does the process of an earlier call, which was killed, go on?"
    try: os.killpg(int((folder/'.pid').read_text()), 0)
    except (OSError, ValueError): return False
    return True

def run_job(job, folder, values, limit):
    "Run a job for at most `limit` seconds; its record"
    folder.mkdir(parents=True, exist_ok=True)
    old = record(folder)
    goes_on = 'resume' in job and any(folder.rglob('checkpoints/*.safetensors'))
    command = job['resume' if goes_on else 'run'].format(dir=folder, name=job['name'], **values)
    r = dict(name=job['name'], job=[job['run'],values['extra']], command=command, status='running', seconds=old.get('seconds', 0.), calls=old.get('calls', 0)+1,
        begun=datetime.now(timezone.utc).isoformat(timespec='seconds'))
    def write(): put(folder/'record.json', (json.dumps(r, indent=1)+'\n').encode())
    write()
    print(f"{job['name']}: {command}", flush=True)
    def cpu(): return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) # of processes that have ended
    start,before,cpu_before = time.monotonic(),r['seconds'],old.get('cpu_seconds', 0.)-cpu()
    with open(folder/'log.txt', 'ab') as log:
        p = subprocess.Popen(shlex.split(command), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
        (folder/'.pid').write_text(str(p.pid))
        try: rc,own = end(p, limit)
        except BaseException:
            end(p, 0)
            raise
        finally:
            r |= dict(seconds=round(before+time.monotonic()-start, 1), cpu_seconds=round(cpu_before+cpu(), 1), rc=p.returncode)
            (folder/'.pid').unlink()
            r['status'] = 'done' if p.returncode==0 else 'stopped'
            write()
    if own and rc: r['status'] = 'failed'
    r['large'] = [str(o) for o in newest(folder)]
    write()
    print(f"{job['name']}: {r['status']}, {time.monotonic()-start:.0f} s", flush=True)
    last = (folder/'log.txt').read_text(errors='replace').strip().splitlines()[-1:]
    if r['status']=='failed': print(f"  {''.join(last)[:300]} (in {folder/'log.txt'})", flush=True)
    return r

@call_parse
def main(
    queue:str, # file of jobs
    work:str, # folder of the jobs
    data:str='.', # {data} of the commands
    extra:str='', # {extra} of the commands
    out:str=None, # folder of a few files with everything, renewed as the jobs go (default: none)
    back:str=None, # `out` of an earlier call, to go on from
    seconds:float=None, # of the whole call (default: without limit)
    only:str=None, # names or patterns of the jobs, separated by commas (default: all)
    every:float=20., # seconds between two renewals of `out`
):
    "Run the jobs of a queue that are not done"
    jobs,work,begin = read_queue(queue, only),Path(work),time.monotonic()
    if not jobs: raise SystemExit(f"only: need names of jobs in {queue}, got {only!r}")
    work.mkdir(parents=True, exist_ok=True)
    def left(): return float('inf') if seconds is None else seconds-(time.monotonic()-begin)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)) # the job saves, too
    values = dict(data=data, extra=extra, work=work, python=sys.executable, tools=os.path.relpath(Path(__file__).parent))
    every_job = {o['name']:o for o in read_queue(queue)}
    try: lock = FileLock(work/'.lock').acquire(timeout=0)
    except Timeout: raise SystemExit(f"work: need a folder that no other queue works in, got {work}") from None
    with lock:
        if not any(work.glob('*/record.json')):
            for o in (back, out): # a new machine
                if o and Path(o).is_dir(): unpack(Path(o), work)
            print('goes on from:', ', '.join(f"{p.parent.name} ({record(p.parent)['status']})" for p in work.glob('*/record.json')) or 'nothing', flush=True)
        for o in jobs: set_aside(work/o['name'], o, extra)
        box,stop = Outbox(work, Path(out)) if out else None,threading.Event()
        def renew():
            while not stop.wait(every):
                try: box.renew()
                except OSError as e: print(f"out: {e}; the next time", flush=True) # a file went meanwhile
        if box: threading.Thread(target=renew, daemon=True).start()
        why = {}
        try:
            for job in jobs:
                name,rest = job['name'],left()-grace-10
                if is_done(work/name, job, extra): continue
                needs = [o for o in job.get('after', []) if not is_done(work/o, every_job[o], extra)]
                files = [f'{o}/{p}' for o in job.get('after', []) for p in record(work/o).get('large', []) if not (work/o/p).exists()]
                if needs or files: why[name] = f"needs {', '.join(needs or files)}"
                elif rest<5: why[name] = f"{max(0, left()):.0f} s left, of which {grace+10:.0f} are kept for the end"
                elif still_runs(work/name): why[name] = f"process {(work/name/'.pid').read_text()} of an earlier call still runs it"
                else: run_job(job, work/name, values, None if (m := min(job.get('seconds') or float('inf'), rest))==float('inf') else m)
                if box: box.renew()
        except KeyboardInterrupt: raise SystemExit(130) from None
        finally:
            stop.set()
            if box: box.renew()
    for o in jobs: print(f"{o['name']:24}{record(work/o['name']).get('status', 'waits'):10}{why.get(o['name'], '')}".rstrip())
    if any(record(work/o['name']).get('status')=='failed' for o in jobs): raise SystemExit(1)
