"""An agent: a control process for presence and health, a data process for streams and reads."""
