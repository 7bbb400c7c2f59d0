"""What a runtime needs to serve for years: life signs, logs, metrics, the audit log, and another model between two scans.

Sessions know only `observers` (whom they tell what happens) and `heart` (where they show that they go on); the rest listens.
"""
