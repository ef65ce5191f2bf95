"""The wire and the workers: messages, topics, Kafka loops, the console command."""
