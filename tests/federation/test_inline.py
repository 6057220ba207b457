"""The grid in this process: Flower's numbering, and failures that carry no text."""

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto

from fedmed.federation.inline import InlineGrid


def echo() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = context.node_config["partition-id"]
        if number == 1:
            raise ValueError("patient 123")
        count = context.state.config_records.setdefault("count", ConfigRecord({"n": 0}))
        count["n"] = int(str(count["n"])) + 1
        record = ConfigRecord(
            {
                "partition": number,
                "partitions": context.node_config["num-partitions"],
                "rounds": context.run_config["train.rounds"],
                "calls": count["n"],
            }
        )
        return Message(RecordDict({"reply": record}), reply_to=message)

    return app


def ask(grid: InlineGrid, nodes: list[int]) -> list[Message]:
    outgoing = [Message(RecordDict(), n, MessageType.TRAIN, group_id="1") for n in nodes]
    return list(grid.send_and_receive(outgoing, timeout=1))


def test_nodes_are_numbered_and_configured_as_in_flowers_simulation() -> None:
    grid = InlineGrid(echo(), 3, {"train.rounds": 5})
    assert list(grid.get_node_ids()) == [2, 3, 4]
    replies = ask(grid, [4, 2])
    assert [m.metadata.src_node_id for m in replies] == [4, 2]
    records = [dict(m.content.config_records["reply"]) for m in replies]
    assert records == [
        {"partition": 2, "partitions": 3, "rounds": 5, "calls": 1},
        {"partition": 0, "partitions": 3, "rounds": 5, "calls": 1},
    ]


def test_a_nodes_state_lives_between_messages() -> None:
    grid = InlineGrid(echo(), 2, {"train.rounds": 5})
    for call in (1, 2, 3):
        assert ask(grid, [2])[0].content.config_records["reply"]["calls"] == call


def test_a_client_that_raises_gives_an_error_without_its_text() -> None:
    (reply,) = ask(InlineGrid(echo(), 2, {"train.rounds": 5}), [3])
    assert reply.has_error()
    assert not reply.error.reason
    assert reply.metadata.src_node_id == 3
    assert b"patient" not in message_to_proto(reply).SerializeToString()


def test_a_reply_is_pulled_once() -> None:
    grid = InlineGrid(echo(), 1, {"train.rounds": 5})
    numbers = list(grid.push_messages([Message(RecordDict(), 2, MessageType.TRAIN)]))
    assert len(numbers) == 1
    assert list(grid.pull_messages(["another"])) == []
    assert len(list(grid.pull_messages(numbers))) == 1
    assert list(grid.pull_messages(numbers)) == []
