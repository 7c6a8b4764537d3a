"""The head and the tail of a stream of any length."""


class Capped:
    def __init__(self, most: int) -> None:
        self._head, self._tail = bytearray(), bytearray()
        self._most_head = most // 2
        self._most_tail = most - self._most_head
        self._total = 0

    def write(self, data: bytes) -> None:
        self._total += len(data)
        room = self._most_head - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self._most_tail:  # not at each write, which would copy it all
            self._trim()

    def _trim(self) -> None:
        del self._tail[: max(0, len(self._tail) - self._most_tail)]

    @property
    def truncated(self) -> bool:
        return self._total > self._most_head + self._most_tail

    def value(self) -> bytes:
        self._trim()
        left_out = self._total - len(self._head) - len(self._tail)
        note = b"\n[... %d bytes left out ...]\n" % left_out if left_out else b""
        return bytes(self._head) + note + bytes(self._tail)
