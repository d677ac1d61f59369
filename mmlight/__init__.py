"""mmlight: pretrain and fine-tune image, text and audio encoders with PyTorch Lightning."""
