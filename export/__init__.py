"""From a hardened model to a file that is served: ONNX, parity, replay."""
