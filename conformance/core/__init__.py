"""What a conformance suite needs whatever the protocol: wire, verdicts, clocks, oracles, models, runner, reports."""
