"""From FSDP shards to a Hugging Face folder that is proved to be the model that was trained."""
