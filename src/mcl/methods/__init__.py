"""Pre-training methods, all behind the protocol of ``mcl.methods.base``."""
