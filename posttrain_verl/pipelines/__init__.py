"""SFT until it plateaus, then RL from its best checkpoint, judged on the same questions: the stages and their order."""
