#!/bin/sh
# Installs what fedmed runs on, at the locked versions, in /opt/fedmed: the build stage of
# clients/Dockerfile and server/Dockerfile. Every file is checked against requirements.lock, but for torch
# from elsewhere: see below.
set -eu
python3 -m venv /opt/fedmed
PATH=/opt/fedmed/bin:$PATH
# The cache stays in this stage: what the dry run fetches is not fetched twice.
pip() { command pip --quiet --disable-pip-version-check "$@"; }

# torch's build is chosen by the build arguments. Without TORCH_OPTIONS its files are the lock's. With them
# they are those of another index, whose hashes the lock does not have: they come as that index sends them.
if [ -z "$TORCH_OPTIONS" ]; then
  python containers/locked.py "torch==$TORCH" "torchvision==$TORCHVISION" >/tmp/torch.txt
  pip install --no-deps --require-hashes -r /tmp/torch.txt
else
  echo "torch and torchvision are not checked against requirements.lock: TORCH_OPTIONS names their source" >&2
  # shellcheck disable=SC2086 -- several options
  pip install --no-deps $TORCH_OPTIONS "torch==$TORCH" "torchvision==$TORCHVISION"
fi

# What torch needs is not there yet, so this reads its version alone.
found=$(python -c 'import importlib.util, runpy
(folder,) = importlib.util.find_spec("torch").submodule_search_locations
print("gpu" if runpy.run_path(f"{folder}/version.py")["cuda"] else "cpu")')
if [ "$found" != "$VARIANT" ]; then
  echo "VARIANT=$VARIANT, but this torch is built for $found; name an index that has the other with" \
    "--build-arg TORCH_OPTIONS='...' (options of pip that name them), or set VARIANT=$found" >&2
  exit 2
fi

# Which packages of the lock that needs, and then those, file by file.
chosen='torch|torchvision'
[ "$VARIANT" = gpu ] || chosen="$chosen|triton|cuda-.*|nvidia-.*"
sed -n 's/^\([a-z].*==[^\\]*\).*/\1/p' requirements.lock | grep -vE "^($chosen)==" >/tmp/constraints.txt
python containers/locked.py --wanted >/tmp/wanted.txt
pip install --dry-run --report /tmp/report.json -c /tmp/constraints.txt -r /tmp/wanted.txt
python containers/locked.py --report /tmp/report.json >/tmp/locked.txt
pip install --no-deps --require-hashes -r /tmp/locked.txt
