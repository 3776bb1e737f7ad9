"""Operations on ONNX models in memory: running them, renaming values, storing large weights in a separate file."""
