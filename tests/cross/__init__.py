"""`make cross`: the conformance suite on other CPUs than this machine's, under emulation (docs/CONFORMANCE.md)."""
