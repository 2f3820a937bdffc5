"""A person moves the arm: take-over by keyboard, gamepad or leader arm; home, park, jog."""
