"""Teachers that are ONNX models."""
