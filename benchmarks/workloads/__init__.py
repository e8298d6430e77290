"""The workloads. Each one measures one library once, on a stage of its own, and returns figures by name."""
