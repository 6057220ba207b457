"""Write the folder of a trial: certificates, a server's state and three hospitals with images.

python containers/trial.py trial            # for compose.yaml
python containers/trial.py trial --server 127.0.0.1:8000
"""

import argparse
import os
from pathlib import Path

import numpy as np
from PIL import Image

from fedmed.site.certs import make_certificates
from fedmed.site.compose import GROUP, GUARD
from fedmed.site.init import Wish, make_site

HOSPITALS = {"north": 60, "south": 48, "west": 40}
SERVER = 10003  # its user; see server/Dockerfile
SIZE = 16


def write_trial(folder: Path, server: str) -> None:
    """Write everything below ``folder``, owned by the containers' users where root asks for it."""
    host = server.rpartition(":")[0]
    make_certificates(
        folder / "pki", list(dict.fromkeys([host, "server", "localhost", "127.0.0.1"]))
    )
    (folder / "state").mkdir()
    for number, (name, patients) in enumerate(HOSPITALS.items()):
        site = folder / name
        draw_images(site / "data", name, patients, seed=number)
        mapping = site / "data" / "mapping.toml"
        make_site(
            site,
            Wish(
                name=name,
                server=server,
                data=mapping,
                ca=folder / "pki" / "ca.crt",
                epsilon=20.0,
                minimum_cohort=10,
                public_size=patients // 2,
            ),
        )
        text = (site / "site.toml").read_text(encoding="utf-8")
        # As the guard's container sees them.
        (site / "site.toml").write_text(
            text.replace(str((site / "data").resolve()), "/site/data"), encoding="utf-8"
        )
    write_flower(folder, server.rpartition(":")[2])
    if os.geteuid() == 0:
        hand_over(folder)


def draw_images(folder: Path, hospital: str, patients: int, seed: int) -> None:
    """Noisy squares, brighter where the label is 1; a table of them and its mapping."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    rows = ["image,label,patient_id,sex,age,site"]
    for patient in range(patients):
        label = patient % 2
        pixels = rng.normal(100 + 40 * label, 30, (SIZE, SIZE)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{patient}.png")
        sex, age = "MF"[patient // 2 % 2], 20 + patient
        rows.append(f"{patient}.png,{label},{hospital}-{patient},{sex},{age},{hospital}")
    (folder / "cohort.csv").write_text("\n".join([*rows, ""]), encoding="utf-8")
    (folder / "mapping.toml").write_text(
        'source = "table"\npath = "cohort.csv"\nimages = "."\nsplit = "patient"\n', encoding="utf-8"
    )


def write_flower(folder: Path, port: str) -> None:
    """Configuration of the coordinator's ``flwr`` command, as its container sees the files."""
    home = folder / "flwr"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "trial"\n\n[superlink.trial]\naddress = "localhost:{port}"\n'
        'root-certificates = "/run/secrets/ca.crt"\n',
        encoding="utf-8",
    )


def hand_over(folder: Path) -> None:
    """Let the containers' users own what they must read or write."""
    os.chown(folder / "pki" / "server.key", SERVER, GROUP)
    for path in (folder / "state", folder / "flwr", folder / "flwr" / "config.toml"):
        os.chown(path, SERVER, GROUP)
    for name in HOSPITALS:
        data = folder / name / "data"
        for path in (data, *data.iterdir()):
            os.chown(path, GUARD, GROUP)
            path.chmod(0o500 if path == data else 0o400)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--server", default="server:8000")
    arguments = parser.parse_args()
    write_trial(arguments.folder, arguments.server)
