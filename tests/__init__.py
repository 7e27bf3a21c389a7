"""Tests of Valkyrie; they mirror the source tree."""
