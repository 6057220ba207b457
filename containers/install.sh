#!/bin/sh
# Installs what fedmed runs on, at the locked versions, in /opt/fedmed: the build stage of
# clients/Dockerfile and server/Dockerfile.
set -eu
python3 -m venv /opt/fedmed
PATH=/opt/fedmed/bin:$PATH

# torch's build is chosen by the build arguments, and so is what that build brings along.
chosen='torch|torchvision'
[ "$VARIANT" = gpu ] || chosen="$chosen|triton|cuda-.*|nvidia-.*"
grep -vE "^($chosen)==" requirements.lock >/tmp/constraints.txt
# shellcheck disable=SC2086 -- several options
pip install --quiet --no-cache-dir $TORCH_OPTIONS -c /tmp/constraints.txt \
  "torch==$TORCH" "torchvision==$TORCHVISION"
found=$(python -c 'import torch; print("gpu" if torch.version.cuda else "cpu")')
if [ "$found" != "$VARIANT" ]; then
  echo "VARIANT=$VARIANT, but this torch is built for $found; name an index that has the other with" \
    "--build-arg TORCH_OPTIONS='...' (options of pip that name them), or set VARIANT=$found" >&2
  exit 2
fi

# Ray is for simulations: neither a hospital nor the server of one federation needs it.
python - >/tmp/runtime.txt <<'PY'
import pathlib
import tomllib

project = tomllib.loads(pathlib.Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
for line in project["dependencies"]:
    if not line.startswith("torch"):
        print(line.replace("[simulation]", ""))
PY
pip install --quiet --no-cache-dir -c /tmp/constraints.txt -r /tmp/runtime.txt
pip install --quiet --no-cache-dir -c /tmp/constraints.txt hatchling editables
