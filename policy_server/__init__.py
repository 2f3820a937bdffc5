"""An observation and an instruction in, an action chunk out."""
