"""The verbs `zoonnx serve`, `zoonnx infer`, `zoonnx dump` and `zoonnx bench`, a module each."""
