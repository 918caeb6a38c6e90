"""All decoders: what reads one payload, and the parties that live on through many."""

from __future__ import annotations

from fuzzing import decoders, words
from fuzzing.decoder import Decoder
from fuzzing.decoders import GOLDEN
from fuzzing.others import REQUESTS, ClientTarget, HealthTarget
from fuzzing.parties import MasterTarget, WorkerTarget

PLAIN = (*decoders.DECODERS, *words.DECODERS)
PARTIES = (
    Decoder("master", GOLDEN, MasterTarget),
    Decoder("worker", GOLDEN, WorkerTarget),
    Decoder("client", GOLDEN, ClientTarget),
    Decoder("health requests", REQUESTS, HealthTarget),
)
DECODERS = (*PLAIN, *PARTIES)
