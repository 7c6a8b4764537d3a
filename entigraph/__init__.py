"""EntiGraph: continued pretraining on text synthesized from the entities of a small corpus."""
