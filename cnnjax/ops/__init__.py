"""Pure functions on arrays: convolution and pooling. No parameters, no state."""
