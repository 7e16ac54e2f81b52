"""Networks: encoders, the U-Net, losses."""
