"""What tests, demo and benchmark stand on: a real Kafka, consumer.py as a process, a terminal, Tron blocks."""
