"""The hospital's Flower app: who it is, training, evaluation when asked; nothing else leaves.

Where the node was started with ``guard``, a socket, this process relays to the site's guard: it
then imports no code that reads data and opens no file of the site. Else it is a simulation.
"""

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Answer with the hospital's name and its policy's view of the plan, or an error code."""
    return Message(_content(message, context, "query"), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round and answer with the update, or with an error code."""
    return Message(_content(message, context, "train"), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the hospital's evaluation images and answer with histograms, or with an error code."""
    return Message(_content(message, context, "evaluate"), reply_to=message)


def _content(message: Message, context: Context, kind: str) -> RecordDict:
    if context.node_config.get("guard"):
        from fedmed.hospital.relay import relay

        return relay(message, context, kind)
    from fedmed.hospital import simulated

    answers = {"query": simulated.query, "train": simulated.train, "evaluate": simulated.evaluate}
    return answers[kind](message, context)
