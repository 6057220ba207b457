"""A deployed federation in this process: every node is a site with a file, data and a policy."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, MessageType
from flwr.proto.node_pb2 import NodeInfo

from clients.app import app
from fedmed.federation import messages
from fedmed.federation.inline import InlineGrid
from fedmed.federation.messages import Joining
from fedmed.federation.node_keys import fingerprint
from fedmed.site import own_settings
from fedmed.site.connection import new_key
from fedmed.site.file import read_site
from fedmed.site.settings import site_settings

SITES = ("a-clinic", "b-clinic", "c-clinic")
POLICY = "public-size = 36\nallow-reproducible-noise = true\n"


def make_site(folder: Path, name: str, *, settings: str = "", policy: str = POLICY) -> Path:
    """A site's file, with a phantom of its own for data; ``settings`` are lines of its table."""
    home = folder / name
    home.mkdir(parents=True)
    (home / "policy.toml").write_text(policy)
    seed = SITES.index(name) + 15
    (home / "site.toml").write_text(
        f'name = "{name}"\npolicy = "policy.toml"\nledger = "ledger.sqlite"\nsocket = "s.sock"\n'
        f'[data]\nsource = "phantom"\npatients = 60\nseed = {seed}\n[settings]\n{settings}\n'
    )
    return home / "site.toml"


def as_site(path: Path, message: Message, context: Context) -> Message:
    """What the site's guard answers: the app's code with the site's own data and settings."""
    site = read_site(path)
    both = site_settings(site, context.run_config)
    node: dict[str, Any] = {"partition-id": 0, "policy": str(site.policy)}
    inner = dataclasses.replace(
        context,
        node_config={**node, "ledger": str(site.ledger)},
        run_config=both.used.to_flat(),
    )
    reply = app(message, inner)
    if message.metadata.message_type != MessageType.QUERY:
        return reply
    answer = messages.read_join(reply)
    if isinstance(answer, str):
        return reply
    evaluates = answer.evaluates and not own_settings.against_evaluation(both.asked, both.used)
    told = dataclasses.replace(
        answer, own=own_settings.difference(both.asked, both.used), evaluates=evaluates
    )
    return Message(messages.join_content(told), reply_to=message)


Meddle = Callable[[str, Message, Message], Message | None]


class SiteGrid(InlineGrid):
    """Nodes that are sites; they can come, go, and answer otherwise than they should.

    ``meddle`` gets a site's name, the message and its answer, and gives what arrives (None:
    nothing). ``present`` tells who is there, and ``renumbered`` gives a restarted site's new node.
    """

    def __init__(self, files: Mapping[str, Path], run_config: Mapping[str, Any]) -> None:
        self.files = dict(files)
        self.present = set(self.files)
        self.numbers = {name: number + 2 for number, name in enumerate(self.files)}
        self.meddle: Meddle = lambda name, message, reply: reply
        super().__init__(self._site, len(self.files) + 10, run_config)  # type: ignore[arg-type]  # a site for each node

    def get_node_ids(self) -> list[int]:
        """The nodes of the sites that are there."""
        return [self.numbers[name] for name in self.files if name in self.present]

    def _site(self, message: Message, context: Context) -> Message:
        name = next(n for n, node in self.numbers.items() if node == context.node_id)
        return as_site(self.files[name], message, context)

    def pull_messages(self, message_ids: Any) -> list[Message]:
        """As a SuperLink: nothing from who is gone."""
        found = []
        for number in message_ids:
            asked = self._pushed.get(number)
            if asked is None:
                continue
            node = asked.metadata.dst_node_id
            name = next((n for n, known in self.numbers.items() if known == node), "")
            if name not in self.present:
                continue
            (reply,) = super().pull_messages([number])
            told = self.meddle(name, asked, reply)
            if told is not None:
                found.append(told)
        return found


class KeyedGrid(SiteGrid):
    """Nodes with keys, as a SuperLink with node authentication knows them."""

    def __init__(self, files: Mapping[str, Path], run_config: Mapping[str, Any]) -> None:
        super().__init__(files, run_config)
        self.keys = {name: new_key()[1] for name in self.files}

    def get_nodes(self) -> list[NodeInfo]:
        """The nodes of the sites that are there, with their public keys."""
        names = {number: name for name, number in self.numbers.items()}
        return [
            NodeInfo(node_id=node, public_key=self.keys[names[node]])
            for node in self.get_node_ids()
        ]

    def site_keys(self) -> str:
        """``data.site-keys`` of all sites."""
        return ", ".join(f"{name}={fingerprint(key)}" for name, key in self.keys.items())

    def forget(self, name: str) -> None:
        """Start this site's node again with its key, so that it is asked who it is."""
        self.numbers[name] = max(self.numbers.values()) + 1


def joined(reply: Message) -> Joining:
    """A site's answer to a query."""
    answer = messages.read_join(reply)
    assert isinstance(answer, Joining), answer
    return answer
