"""Operations on an ONNX model in memory: run it, rename its values, store large weights beside it."""
