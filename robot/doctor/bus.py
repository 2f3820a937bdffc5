"""What is wrong on a servo bus: which servo, which cable, and what mends it."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from robot.arm import JOINTS
from robot.doctor.report import Check, failure, good, warning
from robot.doctor.servo_packets import BAUD_RATES, error_words
from robot.doctor.servo_scan import IDS, MODEL, ROUNDS, BusScan, Servo

MODELS = {777: "STS3215", 2825: "STS3250"}
SLOW_S = 0.008
HOT_MARGIN_C = 10
STUCK_DEG = 5.0
DROP_V = 0.4


def name_of(servo_id: int) -> str:
    """Return what a servo is called: joint and id."""
    joint = JOINTS[servo_id - 1] if servo_id in IDS else "no joint"
    return f"{joint} (id {servo_id})"


def cable(servo_id: int) -> str:
    """Return the cable that leads to a servo from the side of the board."""
    if servo_id == 1:
        return f"the cable from the board to {name_of(1)}"
    return f"the cable from {name_of(servo_id - 1)} to {name_of(servo_id)}"


def chain(result: BusScan) -> str:
    """Return a picture of the chain from the board to the gripper."""
    parts = ["board"]
    cut = cut_before(result)
    for i in IDS:
        parts.append("─//─" if i == cut else "──")
        servo = result.servos.get(i)
        mark = "?" if servo is None else "!" if servo_trouble(servo) else "✓"
        parts.append(f"[{i} {JOINTS[i - 1]} {mark}]")
    strange = "".join(f"  +[{i} ?]" for i in result.strange)
    rates = "".join(f"  +[{i} at {baud}]" for i, baud in result.elsewhere.items())
    return "".join(parts) + strange + rates


def cut_before(result: BusScan) -> int | None:
    """Return the first servo behind a cut: it and all behind it are silent."""
    missing = [i for i in result.missing if i not in result.elsewhere]
    is_tail = bool(missing) and missing == list(range(missing[0], IDS[-1] + 1))
    return missing[0] if is_tail and not (result.strange and len(missing) == 1) else None


def servo_trouble(servo: Servo) -> bool:
    """Return whether something is wrong with a servo that answers."""
    return bool(servo.error or servo.garbled or servo.doubled or servo.lost) or (
        servo.registers is not None and servo.model != MODEL
    )


def diagnose(result: BusScan, port: str) -> list[Check]:
    """Return what is wrong with a bus, or that nothing is."""
    checks = [*_presence(result, port), *_replies(result)]
    readable = [s for s in result.servos.values() if s.registers and s.servo_id in IDS]
    checks += [check for servo in readable for check in _servo(servo)]
    checks += _together(readable)
    if not checks:
        volts = ", ".join(f"{servo.voltage_v:.1f}" for servo in readable)
        checks = [
            good("bus.servos", f"six STS3215, firmware {readable[0].firmware}, {volts} V"),
            good("bus.replies", f"{ROUNDS} requests to each servo, all answered"),
        ]
    return checks


def details(result: BusScan) -> dict[str, object]:
    """Return the figures of a scan for JSON."""
    return {
        "chain": chain(result),
        "elsewhere": dict(result.elsewhere),
        "servos": [_figures(servo) for servo in result.servos.values()],
    }


def _figures(servo: Servo) -> dict[str, object]:
    return {
        "id": servo.servo_id,
        "joint": name_of(servo.servo_id),
        "model": MODELS.get(servo.model, str(servo.model)),
        "firmware": servo.firmware,
        "voltage_v": servo.voltage_v,
        "temperature_c": servo.temperature_c,
        "position": servo.position,
        "errors": error_words(servo.error),
        "reply_ms": round(1000 * servo.seconds, 2),
        "lost": servo.lost,
        "garbled": servo.garbled,
        "asked": servo.asked,
    }


def _setup(port: str) -> str:
    return (
        f"lerobot-setup-motors --robot.type=so101_follower --robot.port={port}  "
        "(one servo connected at a time; it asks)"
    )


def _presence(result: BusScan, port: str) -> Iterable[Check]:
    missing, cut = result.missing, cut_before(result)
    if result.echoed:
        yield failure(
            "bus.echo",
            "the adapter sends back what is sent: every request is taken for a reply",
            "set the board's jumper to USB (B on a Waveshare board), or use a half-duplex adapter",
        )
    for servo_id, baud in result.elsewhere.items():
        yield failure(
            "bus.baud",
            f"{name_of(servo_id)} answers at {baud} baud; expected {BAUD_RATES[0]}",
            _setup(port),
        )
    if len(missing) == len(IDS) and not result.servos and not result.elsewhere:
        yield failure(
            "bus.silent",
            "no servo answers at any baud rate: no supply, or the first cable is off",
            f"switch the servo supply on, and press in {cable(1)}",
            device_missing=True,
        )
    elif cut is not None:
        silent = ", ".join(name_of(i) for i in missing)
        yield failure(
            "bus.cable",
            f"no answer from {silent}; all before answer",
            f"press in or replace {cable(cut)}",
            device_missing=True,
        )
    elif missing:
        yield from _lone(result, [i for i in missing if i not in result.elsewhere], port)


def _lone(result: BusScan, missing: Sequence[int], port: str) -> Iterable[Check]:
    """Say why single servos are missing while others behind them answer."""
    twins = [i for i, servo in result.servos.items() if _is_double(servo)]
    for servo_id in missing:
        if result.strange:
            found = ", ".join(str(i) for i in result.strange)
            sentence = f"{name_of(servo_id)} is missing, and id {found} answers instead"
        elif twins:
            both = ", ".join(name_of(i) for i in twins)
            sentence = f"{name_of(servo_id)} is missing, and two servos answer as {both}"
        else:
            sentence = f"{name_of(servo_id)} does not answer, though servos behind it do"
        is_id = bool(result.strange or twins)
        yield failure(
            "bus.id" if is_id else "bus.missing",
            sentence,
            _setup(port)
            if is_id
            else f"press in the plugs of {name_of(servo_id)}; then replace it",
            device_missing=not is_id,
        )


def _is_double(servo: Servo) -> bool:
    return servo.doubled + servo.garbled > servo.asked // 2


def _replies(result: BusScan) -> Iterable[Check]:
    arm = [servo for i, servo in result.servos.items() if i in IDS]
    if result.missing and any(_is_double(servo) for servo in arm):
        arm = [servo for servo in arm if not _is_double(servo)]
    for servo in arm:
        if servo.doubled > servo.asked // 2:
            yield failure(
                "bus.duplicate",
                f"two servos answer as {name_of(servo.servo_id)}",
                "disconnect one, and give it its own id: lerobot-setup-motors",
            )
    lossy = [s for s in arm if s.lost + s.garbled or s.registers is None]
    if lossy:
        first = min(lossy, key=lambda servo: servo.servo_id)
        bad, asked = first.lost + first.garbled, first.asked
        name = name_of(first.servo_id)
        make = failure if bad > asked // 10 or first.registers is None else warning
        yield make(
            "bus.replies",
            f"{name}: {first.lost} of {asked} replies lost, {first.garbled} damaged; "
            + ("servos before it answer well" if first.servo_id > 1 else "from the first servo on"),
            f"press in or replace {cable(first.servo_id)}; keep it away from the supply",
        )
    slow = [servo for servo in arm if servo.seconds > SLOW_S and not servo.lost]
    if slow:
        yield warning(
            "bus.slow",
            f"replies take {1000 * max(s.seconds for s in slow):.0f} ms; expected below 4",
            "echo 1 | sudo tee /sys/bus/usb-serial/devices/*/latency_timer, or another USB port",
        )


def _servo(servo: Servo) -> Iterable[Check]:
    name = name_of(servo.servo_id)
    if servo.model != MODEL:
        found = MODELS.get(servo.model, f"model {servo.model}")
        yield failure(
            "bus.model", f"{name} is a {found}; expected an STS3215", "replace this servo"
        )
    if servo.error:
        yield failure(
            "bus.error",
            f"{name} reports: {error_words(servo.error)}",
            "take the load off, let it cool, and switch the servo supply off and on",
        )
    yield from _supply(servo, name)
    if servo.byte(33) != 0:
        yield failure(
            "bus.mode",
            f"{name} is in operating mode {servo.byte(33)}; expected 0, position",
            "make arm sets it at its start; lerobot-calibrate does too",
        )
    if abs(servo.short_deg) > STUCK_DEG:
        yield warning(
            "bus.short",
            f"{name} stays {abs(servo.short_deg):.0f}° short of its goal with torque on",
            "look for what blocks it, then for a loose horn or gear; less load",
        )


def _supply(servo: Servo, name: str) -> Iterable[Check]:
    hottest = servo.byte(13) or 70
    if servo.temperature_c >= hottest - HOT_MARGIN_C:
        make = failure if servo.temperature_c >= hottest else warning
        yield make(
            "bus.hot",
            f"{name} is {servo.temperature_c} °C; it switches off at {hottest} °C",
            "make park, and let it cool; then less load or a slower task",
        )
    low, high = servo.byte(15) / 10, servo.byte(14) / 10
    if high and not low <= servo.voltage_v <= high:
        yield failure(
            "bus.voltage",
            f"{name} has {servo.voltage_v:.1f} V; expected {low:.1f} to {high:.1f} V",
            "use the supply of this arm's kit (5 V or 12 V, at least 4 A), with short leads",
        )


def _together(servos: Sequence[Servo]) -> Iterable[Check]:
    versions = {servo.firmware for servo in servos}
    if len(versions) > 1:
        listed = ", ".join(f"{name_of(s.servo_id)} {s.firmware}" for s in servos)
        yield failure(
            "bus.firmware",
            f"servos have unequal firmware, and LeRobot refuses to connect: {listed}",
            "bring all to one version with Feetech's FD tool (Windows), Upgrade",
        )
    by_id = sorted(servos, key=lambda servo: servo.servo_id)
    for before, behind in pairwise(by_id):
        drop = before.voltage_v - behind.voltage_v
        if drop > DROP_V and behind.servo_id == before.servo_id + 1:
            yield warning(
                "bus.drop",
                f"{drop:.1f} V are lost before {name_of(behind.servo_id)}",
                f"press in or replace {cable(behind.servo_id)}",
            )
