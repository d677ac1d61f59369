"""Members become pixels, waveforms and boxes, augmented and spoiled as drawn."""
