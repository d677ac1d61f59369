"""What happens around training: EMA, zero-shot, recording, pictures."""
