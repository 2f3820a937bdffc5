"""A servo bus in memory: six servos on a line, and what can be wrong with them."""

from robot.doctor.servo_packets import BAUD_RATES, BROADCAST, PING, READ, WRITE

RANGES = {
    1: (795, 3300),
    2: (909, 3186),
    3: (945, 3150),
    4: (966, 3128),
    5: (0, 4095),
    6: (1420, 2680),
}


def memory(servo_id: int, **registers: int) -> bytearray:
    """Return the registers of a healthy servo; `r62=50` sets one of them."""
    memory = bytearray(96)
    start = {0: 3, 1: 10, 3: 777 & 255, 4: 777 >> 8, 5: servo_id, 13: 70, 14: 80, 15: 40}
    start |= {40: 1, 62: 74, 63: 30}
    low, high = RANGES.get(servo_id, (0, 4095))
    for address, value in ((9, low), (11, high), (42, 2048), (56, 2048)):
        start |= {address: value & 255, address + 1: value >> 8}
    start |= {int(name[1:]): value for name, value in registers.items()}
    for address, value in start.items():
        memory[address] = value
    return memory


def status(servo_id: int, params: bytes = b"", error: int = 0) -> bytes:
    """Return a status packet."""
    body = bytes([servo_id, len(params) + 2, error]) + params
    return b"\xff\xff" + body + bytes([~sum(body) & 0xFF])


class ServoLine:
    """A line with servos on it; every call takes a little time of its own clock."""

    def __init__(self, servos=None):
        self.servos = {i: memory(i) for i in RANGES} if servos is None else servos
        self.bauds = dict.fromkeys(self.servos, BAUD_RATES[0])
        self.errors = {}
        self.echo = False
        self.damage = {}
        """How to change each reply of a servo: its number and the packet to what is heard."""
        self.answered = dict.fromkeys(self.servos, 0)
        self.baud, self.time, self._waiting = 0, 0.0, b""

    def open(self, baud):
        self.baud = baud
        return self

    def close(self):
        self.baud = 0

    def clock(self):
        self.time += 1e-4
        return self.time

    def reset_input_buffer(self):
        self._waiting = b""

    def write(self, request):
        self._waiting += request if self.echo else b""
        servo_id, instruction, params = request[2], request[4], request[5:-1]
        asked = list(self.servos) if servo_id == BROADCAST else [servo_id]
        for i in asked:
            if self.bauds.get(i) == self.baud:
                self._waiting += self._reply(i, instruction, params)

    def read(self, size=1):
        self.time += 0 if self._waiting else 0.003
        heard, self._waiting = self._waiting[:size], self._waiting[size:]
        return heard

    def _reply(self, servo_id, instruction, params):
        data = b""
        if instruction == READ:
            data = bytes(self.servos[servo_id][params[0] : params[0] + params[1]])
        elif instruction == WRITE:
            self.servos[servo_id][params[0] : params[0] + len(params) - 1] = params[1:]
        assert instruction in (PING, READ, WRITE)
        said = status(servo_id, data, self.errors.get(servo_id, 0))
        self.answered[servo_id] += 1
        return self.damage.get(servo_id, lambda _, whole: whole)(self.answered[servo_id], said)
