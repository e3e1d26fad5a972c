"""A model's memory: versions, the skills they hold, and the rule by which a skill counts as lost."""
