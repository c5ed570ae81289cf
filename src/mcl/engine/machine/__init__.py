"""The machine: where a run computes (device), how much memory there is (memory), what becomes of freed memory
(allocator), and which number format is the quickest (precision)."""
