"""Whether the names that edgekd uses of TensorRT exist in the versions that boards bring."""
