"""A client of a real broker, for tests of who may do what: it does not come back by itself."""

from __future__ import annotations

import queue
import threading
from typing import List, Tuple

import paho.mqtt.client as mqtt

from fleet_processes import WAIT_S


class Party:
    """One connection to the broker; what it hears comes in order."""

    def __init__(self, port: int, name: str, password: str) -> None:
        self.heard: "queue.Queue[Tuple[str, bytes]]" = queue.Queue()
        self.gone = threading.Event()
        self.answer: "queue.Queue[bool]" = queue.Queue()
        self._granted = threading.Event()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        self._client.username_pw_set(name, password)
        self._client.on_connect = lambda c, u, f, reason, p: self.answer.put(not reason.is_failure)
        self._client.on_disconnect = lambda *_: self.gone.set()
        self._client.on_subscribe = lambda *_: self._granted.set()
        self._client.on_message = lambda c, u, m: self.heard.put((m.topic, m.payload))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self.is_in = self.answer.get(timeout=WAIT_S)

    def subscribe(self, *topics: str) -> None:
        self._granted.clear()
        self._client.subscribe([(topic, 1) for topic in topics])
        assert self._granted.wait(WAIT_S)

    def publish(self, *topics: str) -> None:
        """Publish on each topic; the broker acknowledges also what it drops."""
        for sent in [self._client.publish(topic, topic.encode(), 1) for topic in topics]:
            sent.wait_for_publish(WAIT_S)

    def hear(self) -> str:
        return self.heard.get(timeout=WAIT_S)[0]

    def hear_until(self, last: str) -> List[str]:
        """All topics up to one that comes for sure."""
        heard = [self.hear()]
        while heard[-1] != last:
            heard.append(self.hear())
        return heard

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
