"""Windows of histories that are larger than memory: blocks, their order, and the stream that reads them."""
