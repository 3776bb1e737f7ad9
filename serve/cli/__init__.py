"""The commands `zoonnx serve`, `zoonnx infer`, `zoonnx dump` and `zoonnx bench`, one module each."""
