"""What Tidegate does besides model requests: model lists, feedback, readiness, administration, explain, probes."""
