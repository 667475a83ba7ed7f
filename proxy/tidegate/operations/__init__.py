"""What Tidegate does besides model requests: lists, feedback, readiness, administration, explanations, probes."""
