"""Front end for ModelInfer on pygrpc-native, an HTTP/2 and gRPC server in Rust."""
