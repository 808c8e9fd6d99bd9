"""Stub."""

from fastapi import APIRouter


def routes() -> APIRouter:
    """None yet."""
    return APIRouter()
