"""librdkafka's own mock cluster, which is in its wheel: no Java, ready in milliseconds, answers as it is told to.

Plain text only. It knows groups and what they commit, keeps 100,000 messages or 5 MB of a partition, and has no
timestamps: asked for the offset at one, it says that no message is as new.
"""

import ctypes
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from confluent_kafka import Producer

from harness.environment import missing

# What is asked for: https://kafka.apache.org/protocol#protocol_api_keys
FETCH = 1
LIST_OFFSETS = 2
OFFSET_COMMIT = 8
OFFSET_FETCH = 9
FIND_COORDINATOR = 10
JOIN_GROUP = 11
HEARTBEAT = 12
SYNC_GROUP = 14
GROUP_HEARTBEAT = 68  # of KIP-848's protocol, which needs no JOIN_GROUP and SYNC_GROUP

# What is answered: https://kafka.apache.org/protocol#protocol_error_codes
GOOD = 0
UNKNOWN_TOPIC_OR_PARTITION = 3
NOT_LEADER = 6
COORDINATOR_LOAD_IN_PROGRESS = 14
COORDINATOR_NOT_AVAILABLE = 15
NOT_COORDINATOR = 16
INCONSISTENT_GROUP_PROTOCOL = 23
REBALANCE_IN_PROGRESS = 27
TOPIC_AUTHORIZATION_FAILED = 29
KAFKA_STORAGE_ERROR = 56
GROUP_ID_NOT_FOUND = 69
UNKNOWN_LEADER_EPOCH = 75
OFFSET_NOT_AVAILABLE = 78

WITHOUT_END = 10_000  # times: more often than a test's client asks

_POINTER, _TEXT, _NUMBER = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32
# name -> what it returns, and what it takes: rdkafka_mock.h
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "conf_new": (_POINTER,),
    "conf_set": (ctypes.c_int, _POINTER, _TEXT, _TEXT, _POINTER, ctypes.c_size_t),
    "new": (_POINTER, ctypes.c_int, _POINTER, _POINTER, ctypes.c_size_t),
    "destroy": (None, _POINTER),
    "mock_cluster_new": (_POINTER, _POINTER, ctypes.c_int),
    "mock_cluster_destroy": (None, _POINTER),
    "mock_cluster_bootstraps": (_TEXT, _POINTER),
    "mock_group_initial_rebalance_delay_ms": (None, _POINTER, _NUMBER),
    "mock_set_group_consumer_session_timeout_ms": (None, _POINTER, ctypes.c_int),
    "mock_set_group_consumer_heartbeat_interval_ms": (None, _POINTER, ctypes.c_int),
    "mock_topic_create": (ctypes.c_int, _POINTER, _TEXT, ctypes.c_int, ctypes.c_int),
    "mock_topic_set_error": (None, _POINTER, _TEXT, ctypes.c_int),
    "mock_push_request_errors_array": (None, _POINTER, ctypes.c_int16, ctypes.c_size_t, _POINTER),
    "mock_clear_request_errors": (None, _POINTER, ctypes.c_int16),
    "mock_partition_set_leader": (ctypes.c_int, _POINTER, _TEXT, _NUMBER, _NUMBER),
    "mock_coordinator_set": (ctypes.c_int, _POINTER, _TEXT, _TEXT, _NUMBER),
    "mock_broker_set_down": (ctypes.c_int, _POINTER, _NUMBER),
    "mock_broker_set_up": (ctypes.c_int, _POINTER, _NUMBER),
    "mock_broker_set_host_port": (None, _POINTER, _NUMBER, _TEXT, ctypes.c_int),
    "mock_broker_set_rtt": (ctypes.c_int, _POINTER, _NUMBER, ctypes.c_int),
    "mock_start_request_tracking": (None, _POINTER),
    "mock_get_requests": (ctypes.POINTER(_POINTER), _POINTER, ctypes.POINTER(ctypes.c_size_t)),
    "mock_request_api_key": (ctypes.c_int16, _POINTER),
    "mock_request_destroy_array": (None, ctypes.POINTER(_POINTER), ctypes.c_size_t),
}


def _library() -> ctypes.CDLL:
    """Return the library that confluent_kafka has loaded; skip the test where it cannot be found."""
    if sys.platform != "linux":
        missing("librdkafka's mock cluster is looked for on Linux only")
    with open("/proc/self/maps", encoding="utf-8") as file:  # the same one: a second copy would be another library
        paths = {line.split(maxsplit=5)[-1].strip() for line in file if "librdkafka" in line}
    if not paths:
        missing("confluent_kafka has librdkafka built in: its mock cluster cannot be reached")
    library = ctypes.CDLL(paths.pop())
    for name, (result, *arguments) in _FUNCTIONS.items():
        if not hasattr(library, f"rd_kafka_{name}"):
            missing(f"this librdkafka has no rd_kafka_{name}")
        function = getattr(library, f"rd_kafka_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class MockCluster:
    """Nodes 1, 2 … in this process; `with MockCluster() as cluster:` ends them.

    `address` is for bootstrap.servers. A new group waits half a second for further members; with KIP-848, whose
    sessions are the nodes' to set, they last three seconds.
    """

    def __init__(self, nodes: int = 3) -> None:
        """Start the nodes."""
        self._library = _library()
        self.nodes = range(1, nodes + 1)
        conf = self._call("conf_new")
        for key, value in ((b"enable.metrics.push", b"false"), (b"log_level", b"0")):
            assert self._call("conf_set", conf, key, value, None, 0) == 0
        self._client = self._call("new", 0, conf, None, 0)  # a producer that produces nothing: the nodes' owner
        assert self._client, "librdkafka made no client"
        self._cluster = self._call("mock_cluster_new", self._client, nodes)
        assert self._cluster, "librdkafka made no mock cluster"
        self.address: str = self._call("mock_cluster_bootstraps", self._cluster).decode()
        self._call("mock_group_initial_rebalance_delay_ms", self._cluster, 500)
        self._call("mock_set_group_consumer_session_timeout_ms", self._cluster, 3000)
        self._call("mock_set_group_consumer_heartbeat_interval_ms", self._cluster, 500)
        self._call("mock_start_request_tracking", self._cluster)

    def _call(self, name: str, *arguments: object) -> Any:
        """Call a function of the library."""
        return getattr(self._library, f"rd_kafka_{name}")(*arguments)

    def _do(self, name: str, *arguments: object) -> None:
        """Call a function that takes the cluster, and returns an error's code."""
        assert (code := self._call(name, self._cluster, *arguments)) == 0, f"{name}{arguments}: error {code}"

    def __enter__(self) -> "MockCluster":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the nodes; the cluster must go before the client that owns it."""
        self._call("mock_cluster_destroy", self._cluster)
        self._call("destroy", self._client)

    def create_topic(self, name: str, partitions: int = 1) -> str:
        """Create a topic whose partitions are on one node each, and return its name."""
        self._do("mock_topic_create", name.encode(), partitions, 1)
        return name

    def produce(self, topic: str, values: Sequence[bytes], partitions: Sequence[int] = (0,)) -> None:
        """Write values to these partitions in turn, and wait until they are there."""
        # Without metrics: pushing them has crashed a process that made many producers.
        producer = Producer({"bootstrap.servers": self.address, "enable.metrics.push": False, "log_level": 0})
        for number, value in enumerate(values):
            producer.produce(topic, value, partition=partitions[number % len(partitions)])
        assert producer.flush(30) == 0

    def push(self, api: int, *codes: int, times: int = 1) -> None:
        """Answer the next requests of a kind with these codes, one after the other, `times` over."""
        every = codes * times
        array = (ctypes.c_int * len(every))(*every)
        self._call("mock_push_request_errors_array", self._cluster, api, len(every), array)

    def clear(self, api: int) -> None:
        """Answer well again."""
        self._call("mock_clear_request_errors", self._cluster, api)

    def set_topic_error(self, topic: str, code: int) -> None:
        """Answer with this code where metadata of a topic are asked for, which push() cannot do."""
        self._call("mock_topic_set_error", self._cluster, topic.encode(), code)

    def set_leader(self, topic: str, partition: int, node: int) -> None:
        """Let a node lead a partition from now on; -1: nobody."""
        self._do("mock_partition_set_leader", topic.encode(), partition, node)

    def set_coordinator(self, group: str, node: int) -> None:
        """Let a node coordinate a group from now on."""
        self._do("mock_coordinator_set", b"group", group.encode(), node)

    def set_down(self, *nodes: int) -> None:
        """Close the connections of nodes, and take no new ones."""
        for node in nodes:
            self._do("mock_broker_set_down", node)

    def set_up(self, *nodes: int) -> None:
        """Take connections again."""
        for node in nodes:
            self._do("mock_broker_set_up", node)

    def advertise(self, node: int, host: str, port: int) -> None:
        """Let metadata say that a node is at another address; it still answers at its own."""
        self._call("mock_broker_set_host_port", self._cluster, node, host.encode(), port)

    def set_delay(self, seconds: float, *nodes: int) -> None:
        """Answer each request only after so long."""
        for node in nodes:
            self._do("mock_broker_set_rtt", node, int(seconds * 1000))

    def count_requests(self, api: int) -> int:
        """Return how many requests of a kind have come."""
        size = ctypes.c_size_t()
        requests = self._call("mock_get_requests", self._cluster, ctypes.byref(size))
        try:
            return sum(self._call("mock_request_api_key", requests[n]) == api for n in range(size.value))
        finally:
            self._call("mock_request_destroy_array", requests, size.value)

    def wait_for_request(self, api: int, seconds: float = 30) -> None:
        """Wait until a request of a kind has come."""
        deadline = time.monotonic() + seconds
        while not self.count_requests(api):
            assert time.monotonic() < deadline, f"nobody has sent request {api} within {seconds} s"
            time.sleep(0.02)
