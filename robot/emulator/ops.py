"""What an emulator does when its admin socket is asked to."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, cast

import numpy as np

from robot.arm import JOINTS, to_radians
from robot.emulator.emulated_arm import EmulatedArm
from robot.emulator.faults import Cable, EmulatorFaults
from robot.emulator.fields import Fields, joint_of, number_of, whole_of
from robot.emulator.servo import MEMORY
from robot.emulator.twin_body import TwinBody
from robot.emulator.twin_state import parse_layout

type Reply = dict[str, object]


class Witness(Protocol):
    """A judge that can say what it saw."""

    def report(self) -> Reply:
        """Return counts by rule."""
        ...

    def clear(self) -> None:
        """Forget what was seen."""
        ...


class EmulatorOps:
    """Carries out requests on one emulated arm."""

    def __init__(
        self, arm: EmulatedArm, cable: Cable, *, preset: str, witness: Witness | None
    ) -> None:
        self.faults = EmulatorFaults(arm, cable)
        self._arm, self._cable, self._preset, self._witness = arm, cable, preset, witness
        # One at a time; the bus is served meanwhile.
        self._builder = ThreadPoolExecutor(1, "layout")

    def answer(self, request: Fields) -> Reply | Future[TwinBody]:
        """Return the reply to a request; raise `ValueError` with what is wrong with it.

        Of a twin that is still built, pass it to `complete` when it is there.
        """
        match request.get("op"):
            case "layout":
                return self._layout(request)
            case "truth":
                return self._truth()
            case "judge":
                return self._judge(request)
            case "servos":
                return {"servos": {name: self._servo(name) for name in JOINTS}}
            case "replug":
                return {"port": self._cable.replug()}
            case op:
                self._do(op, request)
                return {"ok": True}

    def complete(self, twin: TwinBody) -> Reply:
        """Put the arm before the table that was asked for."""
        self._arm.replace_twin(twin)
        return {"ok": True}

    def close(self) -> None:
        """Stop building layouts."""
        self._builder.shutdown(wait=False, cancel_futures=True)

    def _do(self, op: object, request: Fields) -> None:
        match op:
            case "reset":
                self._arm.twin.reset_scene(abs(whole_of(request, "seed")))
            case "fault":
                self.faults.strike({key: value for key, value in request.items() if key != "op"})
            case "camera_fault":
                self.faults.camera(request.get("view"), request.get("kind"))
            case "push":
                self._push(request)
            case "release":
                self._arm.release()
            case "connect":
                self._connect(request.get("joints"))
            case "unplug":
                self._cable.unplug()
            case _:
                raise ValueError(f"unknown op {op!r}")

    def _truth(self) -> Reply:
        truth = dataclasses.asdict(self._arm.twin.truth())
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in truth.items()
        }

    def _layout(self, request: Fields) -> Reply | Future[TwinBody]:
        layout = parse_layout(request)
        if layout == self._arm.twin.layout:
            return {"ok": True}
        return self._builder.submit(TwinBody, layout, preset=self._preset)

    def _judge(self, request: Fields) -> Reply:
        if self._witness is None:
            raise ValueError("the judge is off: start the emulator with judge=on")
        report = self._witness.report()
        if request.get("clear"):
            self._witness.clear()
        return report

    def _servo(self, name: str) -> Reply:
        servo = self._arm.servos[name]
        return {
            "registers": servo.read(0, MEMORY).hex(),
            "id": servo.servo_id,
            "torque": servo.torque,
            "goals_written": servo.goals_written,
            "temperature_c": servo.temperature_c,
            "error": servo.error,
            "strength": servo.strength,
            "angle": float(self._arm.twin.joint_pos()[JOINTS.index(name)]),
        }

    def _push(self, request: Fields) -> None:
        joints = request.get("joints")
        if not isinstance(joints, dict) or not joints:
            raise ValueError(f"joints is {joints!r}; expected values by joint")
        wanted = cast("dict[str, object]", joints)
        pose = self._arm.twin.joint_pos().copy()
        indices = [JOINTS.index(joint_of({"joint": name})) for name in wanted]
        for index, name in zip(indices, wanted, strict=True):
            pose[index] = number_of(wanted, name)
        radians = to_radians(pose)
        seconds = number_of(request, "seconds") if "seconds" in request else 0.0
        self._arm.push({index: float(radians[index]) for index in indices}, seconds=seconds)

    def _connect(self, joints: object) -> None:
        names = cast("Sequence[object]", joints) if isinstance(joints, list) else [joints]
        self._arm.bus.connected = [self._arm.servos[joint_of({"joint": name})] for name in names]
