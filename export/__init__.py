"""ONNX graphs: written for a board's software, quantised, checked."""
