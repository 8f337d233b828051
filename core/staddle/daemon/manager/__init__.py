"""The manager: a control process over the op-log, and the process that owns the catalog."""
