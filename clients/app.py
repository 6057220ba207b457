"""The hospital's Flower app: it answers who it is and trains when asked; nothing else leaves."""

import logging

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.hospital import Refusal, hospital_for, name_of
from fedmed import config
from fedmed.errors import UserError
from fedmed.federation import messages
from fedmed.federation.messages import Reply

log = logging.getLogger("fedmed.hospital")

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Answer with the hospital's name, or with an error code."""
    try:
        record = ConfigRecord({"hospital": name_of(*_member(context))})
        content = RecordDict({"reply": record})
    except Refusal as refusal:
        content = messages.update_content(Reply("", error=refusal.code))
    return Message(content, reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round; whatever goes wrong, only a code leaves the hospital."""
    try:
        hospital = hospital_for(*_member(context), context.run_id)
        content = message.content
        reply = hospital.train(
            int(str(content.config_records["request"]["round"])),
            messages.decode_arrays(content.array_records["model"]),
            messages.decode_arrays(content.array_records["frozen"]),
        )
    except Refusal as refusal:
        reply = Reply("", error=refusal.code)
    except MemoryError:
        reply = Reply("", error="memory")
    except Exception as error:
        # The text of an exception can hold data: its kind alone is logged, at the hospital.
        log.error("a hospital failed: %s", type(error).__name__)
        reply = Reply("", error="internal")
    return Message(messages.update_content(reply), reply_to=message)


def _member(context: Context) -> tuple[config.Settings, int]:
    try:
        settings = config.from_flat(dict(context.run_config))
    except UserError as error:
        raise Refusal("plan") from error
    return settings, int(context.node_config["partition-id"])
