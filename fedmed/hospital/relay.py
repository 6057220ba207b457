"""A deployed hospital's side of the app: it relays to the site's guard and touches no data.

Each message has a process of its own, so that only those with arrays import torch.
"""

import logging
from collections.abc import Callable

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fedmed.federation import talk
from fedmed.site import asking
from fedmed.site.asking import GuardRefusal

log = logging.getLogger("fedmed.hospital")


def relay(message: Message, context: Context, kind: str) -> RecordDict:
    """The guard's answer to a query, train or evaluate message, as a reply's content."""
    socket = str(context.node_config["guard"])
    content = message.content
    request = talk.part_of(content, "request", ConfigRecord)
    run, run_id = str(request["run"]), context.run_id
    config = dict(context.run_config)

    def query() -> RecordDict:
        return talk.join_content(asking.query(socket, config, run, run_id))

    def train() -> RecordDict:
        if "phase" in request:
            phase, text = str(request["phase"]), str(request["text"])
            return talk.sum_content(*asking.in_sum(socket, config, run, run_id, phase, text))
        from fedmed.federation import messages

        round_number = int(str(request["round"]))
        model = messages.decode_arrays(talk.part_of(content, "model", ArrayRecord))
        frozen = messages.read_frozen(content)
        return messages.update_content(
            asking.train(socket, config, run, run_id, round_number, model, frozen),
            str(config.get("run.wire", "float32")),
            spend=True,
        )

    def evaluate() -> RecordDict:
        from fedmed.federation import messages

        edges = request["edges"]
        return messages.histogram_content(
            asking.evaluate(
                socket,
                config,
                run,
                run_id,
                messages.decode_arrays(talk.part_of(content, "model", ArrayRecord)),
                messages.decode_arrays(talk.part_of(content, "frozen", ArrayRecord)),
                tuple(float(str(edge)) for edge in (edges if isinstance(edges, list) else [])),
            )
        )

    answers: dict[str, Callable[[], RecordDict]] = {
        "query": query,
        "train": train,
        "evaluate": evaluate,
    }
    try:
        return answers[kind]()
    except GuardRefusal as refusal:
        code = refusal.code
    except Exception as error:
        log.error("the relay failed: %s", type(error).__name__)
        code = "internal"
    return talk.refusal_content("", code)
