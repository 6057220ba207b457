"""Whether the server knows a node key: asked the only way there is, by joining for a moment."""

import httpx
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedmed.site.connection import Connection, read_key


def registered(connection: Connection) -> int | None:
    """The node's number at the server, or None where the server lets nobody in with this key.

    The server says no word more, and says the same where the key's SuperNode is running already.
    Raises ``OSError`` where the server cannot be reached, :class:`UserError` for the key.
    """
    key = read_key(connection.key)
    public = public_key_to_bytes(key.public_key())
    signed = NodeAuthHttpInterceptor(key, key.public_key())
    try:
        with FleetHttpClient.from_server_address(
            connection.address, False, connection.ca.read_bytes(), interceptors=[signed]
        ) as client:
            request = ActivateNodeRequest(public_key=public, heartbeat_interval=30)
            node = int(client.ActivateNode(request).node_id)
            client.DeactivateNode(DeactivateNodeRequest(node_id=node))
    except httpx.HTTPStatusError:
        return None
    except httpx.TransportError as error:
        raise OSError(str(error)) from error
    return node
