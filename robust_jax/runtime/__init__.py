"""What a run stands on: devices, compiled calls, the log, the command line."""
