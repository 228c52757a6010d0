"""Works on the gateway's configuration and journal without serving: fit, replay, suggest."""
